"use strict";
document.documentElement.classList.add("scripted");
const HOLD = 2; // seconds that the last frame of an animation stays
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;

for (const player of document.querySelectorAll(".player")) {
  const image = player.querySelector("img");
  const slider = player.querySelector("input");
  const output = player.querySelector("output");
  const button = player.querySelector("button"); // only animations have one
  const labels = JSON.parse(player.dataset.labels);
  const last = labels.length - 1;
  const frameSeconds = Number(player.dataset.seconds) / Math.max(1, last);
  let playing = false;
  let began; // when frame 0 was shown, or would have been

  function show(frame) {
    slider.value = frame;
    slider.setAttribute("aria-valuetext", labels[frame]);
    output.textContent = labels[frame];
    image.style.objectPosition = `0 ${(100 * frame) / Math.max(1, last)}%`;
  }

  function step(now) {
    if (!playing) return;
    began ??= now - 1000 * frameSeconds * (Number(slider.value) % last);
    const seconds = ((now - began) / 1000) % (frameSeconds * last + HOLD);
    const frame = Math.min(last, Math.floor(seconds / frameSeconds));
    if (frame !== Number(slider.value)) show(frame);
    requestAnimationFrame(step);
  }

  function play(wanted) {
    if (playing === wanted) return;
    playing = wanted;
    began = undefined;
    button.textContent = playing ? "Pause" : "Play";
    if (playing) requestAnimationFrame(step);
  }

  slider.addEventListener("input", () => {
    if (button) stop();
    show(Number(slider.value));
  });
  show(Number(slider.value));
  if (!button) continue;

  // It plays while it is in sight, until its reader takes over.
  const sight = new IntersectionObserver(([entry]) => play(entry.isIntersecting), { threshold: 0.5 });
  function stop() {
    sight.disconnect();
    play(false);
  }
  button.addEventListener("click", () => {
    const wanted = !playing;
    stop();
    play(wanted);
  });
  if (!still) sight.observe(player);
}
