"""The values of constants that a model computes, as the operators are specified."""
