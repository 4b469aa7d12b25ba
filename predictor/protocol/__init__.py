"""Wire formats to pictures and back; pure translation, no I/O."""
