"""The parts of ``train_mlp.py``, which stands beside this folder."""
