"""The same frames through ours and through what others would use, each in a process of its own, in turns."""
