"""Equilibrium reasoning: prefix sums, mazes and Sudoku, solved by as many steps as they need."""
