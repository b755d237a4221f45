"""What people have: files, folders of DICOM, BIDS data sets and tables, turned into scans to segment."""
