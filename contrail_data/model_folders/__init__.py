"""Folders of trained detectors as files: what is in one, and copies of it; knows nothing of torch.

A model folder is a finished run or pipeline without what only training needs, and a card for people. `manifest` lists
and verifies its files, and states the digest by which copies of it are recognised. `copies` fetches folders into the
cache and puts them elsewhere, where `target` says that they may lie, `hub` speaks to the Hugging Face hub, and
`hub_address` parses addresses of it.
"""
