"""What `deeplab_tf.check_data` measures and finds.

    sources -> examples -> images.measure -> statistics -> findings -> report, contact_sheet

Images are measured one by one, and only counts of them are kept.
"""
