"""Saved models and observation statistics, which cannot run code when they are read, nor be damaged unnoticed.

`archive` is the zip with its sizes and hashes, `codec` and `pickles` turn what is in it into values, `allowed` lists
the classes that may be among them, `weights` reads tensors, `model` and `normalizer` put the whole together.
"""
