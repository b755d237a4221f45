"""Label schemes, lesions and deformation: the patient before any physics."""
