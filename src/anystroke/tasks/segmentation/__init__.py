"""From a clinical scan to a lesion mask in its own grid."""
