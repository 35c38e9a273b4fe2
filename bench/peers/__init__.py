"""`heatline bench peers`: heatline and other systems on the same frames, each in a process of its own."""
