"""The data sets: all that the project knows of each stands in one table. A further one takes a reader and an entry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ddpm.data import archives
from ddpm.data.drawn import layouts
from ddpm.data.drawn.kinds import KINDS
from ddpm.data.drawn.sprites import SPRITE_KINDS
from ddpm.data.fetch import RemoteFile
from ddpm.data.folder import ENDINGS, FolderImages, picture_files

Pictures = archives.CelebaImages | FolderImages  # images in files of their own, which are read one at a time


@dataclass(frozen=True)
class DataSet:
    """One data set: what its images are, where they come from, how they are read and what is drawn in their place."""

    classes: tuple[str, ...]  # in the order of the labels; none where there are no labels
    drawn_classes: tuple[str, ...]  # of the stand-in, which shows other things
    count: int | None  # of the official images, test files aside
    size: int  # side of the square training images in pixels: as published, or where they are cut, by default
    channels: int
    licence: str
    shareable: bool  # whether images may be shown to others, as in git; what is drawn by code always may
    files: tuple[RemoteFile, ...]  # as the publisher offers them
    local: str  # what else data.source may be
    read: Callable[[Path, archives.Part], archives.Arrays | Pictures]  # of an archive or folder; raises Fault
    heldout: str  # in words, what `read` holds out, unless a list of the publisher's says it
    folder_files: Callable[[Path], list[Path]]  # the data set's files in an unpacked folder
    write: Callable[[Path, int, int, int], None]  # draws the stand-in: its path, images, seed, processes
    ending: str  # of the stand-in's name
    partition: Callable[[Path], Path | None] = lambda path: None  # that list, if it lies beside an archive or folder
    frame: tuple[int, int] | None = None  # width and height of the images as published, where they are cut
    any_size: bool = False  # or they are cut whatever their size is, by default at the middle
    crop: tuple[int, int, int, int] | None = None  # left, top, width, height in the frame, by default

    def class_names(self, source: str) -> tuple[str, ...]:
        """The names of the classes in the order of the labels, for this data.source."""
        return self.drawn_classes if source == "synthetic" else self.classes

    @property
    def most_bytes(self) -> int:
        """What an archive of this data set has at most: twice the official files, and one unpacked file."""
        return 2 * sum(file.size for file in self.files) + archives.MAX_BYTES

    def check(self, path: Path, part: archives.Part = "all") -> None:
        """Read `part` of an archive or folder; raise Fault at the first thing that is not as its publisher's layout says."""
        images = self.read(path, part)
        if not isinstance(images, tuple):
            images.check()


def _fashion_mnist_file(name: str, size: int, md5: str, sha256: str) -> RemoteFile:
    places = (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets",
    )
    by_hand = f"Fetch {name} from https://github.com/zalandoresearch/fashion-mnist with a browser."
    return RemoteFile(name, size, tuple(f"{place}/{name}" for place in places), by_hand, md5, sha256)


DATA_SETS = {
    "cifar10": DataSet(
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        drawn_classes=tuple(KINDS),
        count=50_000,
        size=32,
        channels=3,
        licence="none stated; its page asks to cite Krizhevsky's technical report of 2009",
        shareable=True,
        files=(
            RemoteFile(
                name="cifar-10-binary.tar.gz",
                size=170052171,
                md5="c32a1d4ab5d03f1284b67883e8d87530",
                sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                urls=(
                    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                    "https://mindspore-website.obs.cn-north-4.myhuaweicloud.com/notebook/datasets/cifar-10-binary.tar.gz",
                ),
                by_hand="Fetch cifar-10-binary.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html with a browser.",
            ),
        ),
        local="the path of cifar-10-binary.tar.gz, of a folder that contains it, or of its unpacked folder",
        read=archives.read_cifar10,
        heldout="CIFAR-10's test batch",
        folder_files=archives.cifar10_files,
        write=layouts.write_cifar10,
        ending=".tar.gz",
    ),
    "celeba": DataSet(
        classes=(),
        drawn_classes=(),
        count=202_599,
        size=64,
        channels=3,
        licence="for research that is not commercial; no part of the images may be copied or published",
        shareable=False,
        files=(
            RemoteFile(
                name="img_align_celeba.zip",
                size=1443490838,
                md5="00d2c5bc6d35e252742224ab0c1e8fcb",  # as listed by torchvision; the publisher gives none
                urls=(
                    "https://drive.usercontent.google.com/download?id=0B7EVK8r0v71pZjFTYXZWM3FlRnM&export=download&confirm=t",
                ),
                by_hand="The host refuses when its daily quota is spent. Try again tomorrow, or fetch Img/img_align_celeba.zip "
                "with a browser from https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html (Google Drive or Baidu).",
            ),
        ),
        local="the path of img_align_celeba.zip, of a folder that contains it, or of its unpacked folder "
        f"(and beside the images, for the publisher's split, {archives.CELEBA_PARTITION})",
        read=archives.CelebaImages,
        heldout="a tenth of the images, chosen by a hash of the file's name",
        partition=archives.celeba_partition,
        folder_files=archives.celeba_files,
        write=layouts.write_celeba,
        ending=".zip",
        frame=archives.CELEBA_SIZE,
        crop=(25, 57, 128, 128),  # about (89, 121), the DDIM paper's box: https://arxiv.org/abs/2010.02502
    ),
    "fashion_mnist": DataSet(
        classes=("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
        drawn_classes=tuple(KINDS),
        count=60_000,
        size=28,
        channels=1,
        licence="MIT",
        shareable=True,
        files=(
            _fashion_mnist_file(
                archives.FASHION_MNIST_TEST_FILES[0],
                4422102,
                "bef4ecab320f06d8554ea6380940ec79",
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            ),
            _fashion_mnist_file(
                archives.FASHION_MNIST_TEST_FILES[1],
                5148,
                "bb300cfdad3c16e7a12a480ee83cd310",
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
            _fashion_mnist_file(
                archives.FASHION_MNIST_FILES[0],
                26421880,
                "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            ),
            _fashion_mnist_file(
                archives.FASHION_MNIST_FILES[1],
                29515,
                "25c81989df183df01b3e8a0aad5dffbe",
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            ),
        ),
        local=f"the path of a folder with {' and '.join(archives.FASHION_MNIST_FILES)}, packed or unpacked "
        f"(and, to be held out, {' and '.join(archives.FASHION_MNIST_TEST_FILES)})",
        read=archives.read_fashion_mnist,
        heldout="Fashion-MNIST's t10k files",
        folder_files=archives.fashion_mnist_files,
        write=layouts.write_fashion_mnist,
        ending="",
    ),
    "sprites": DataSet(
        classes=SPRITE_KINDS,
        drawn_classes=SPRITE_KINDS,
        count=None,
        size=16,
        channels=3,
        licence="drawn by this project's code; of a local file, what its owner says",
        shareable=True,
        files=(),
        local="the path of an .npz file with the arrays images and labels",
        read=archives.read_sprites,
        heldout="a tenth of the images, chosen by a hash of their place in the file",
        folder_files=lambda folder: [],  # a single file only
        write=layouts.write_sprites,
        ending=".npz",
    ),
    "folder": DataSet(
        classes=(),  # those of a local folder are its subfolders
        drawn_classes=(),
        count=None,
        size=64,
        channels=3,
        licence="their owner's, who decides what is done with them",
        shareable=False,
        files=(),
        local=f"the path of a folder of {', '.join(ENDINGS)} files, or of one subfolder of them a class",
        read=FolderImages,
        heldout="a tenth of the pictures, chosen by a hash of the file's path in the folder",
        folder_files=picture_files,
        write=layouts.write_folder,
        ending="",
        any_size=True,
    ),
}
