//! Where time, randomness and fresh ids enter the program; everywhere else they are values.
