"""Writing BatchNormalizations as their affine maps, to be trained further."""
