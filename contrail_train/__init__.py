"""Contrail segmentation models, trained straight from contrail_data stores."""
