"""To tell patients apart by the pooled features of a scan."""
