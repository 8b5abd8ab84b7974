"""Equilibrium reasoning: prefix sums, mazes and Sudoku, with more computation at test time."""
