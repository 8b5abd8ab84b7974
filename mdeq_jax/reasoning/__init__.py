"""Equilibrium reasoning: prefix sums, mazes and Sudoku, solved by iterating one cell."""
