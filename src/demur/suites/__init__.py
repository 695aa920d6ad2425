"""Published protocols: a page says which settings one stands for."""
