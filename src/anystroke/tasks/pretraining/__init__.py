"""To learn features of a patient that do not depend on the sequence."""
