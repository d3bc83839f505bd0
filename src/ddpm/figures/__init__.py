"""Pictures and curves for people, with numpy, Pillow and matplotlib only."""
