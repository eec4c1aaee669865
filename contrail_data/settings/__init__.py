"""Strict schemas of settings: `strict` is their base, `fields` describes them, `parse` reads values into them.

Recipes of stores and the settings of runs are such schemas.
"""
