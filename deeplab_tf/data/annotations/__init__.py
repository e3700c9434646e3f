"""Annotation files of other tools: recognised, read into one structure, drawn as label maps.

shapes <- common <- one module per format <- formats (which of them a folder holds)
"""
