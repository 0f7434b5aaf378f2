"""One file a domain pair, on the keys of default.py: ``python train.py --config configs/FILE.py``."""
