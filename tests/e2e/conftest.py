from topology import MakeMcr, Plant, lab, make_mcr, needs_root, plant
from users import stage

__all__ = ["MakeMcr", "Plant", "lab", "make_mcr", "needs_root", "plant", "stage"]
