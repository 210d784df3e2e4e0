"""Layouts of other libraries, against their published formulas and, where installed, themselves."""
