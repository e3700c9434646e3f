"""What `deeplab_tf.check_data` measures and finds.

    sources -> examples -> pictures.measure -> statistics -> findings -> report, contact_sheet

Pictures are measured one by one, and only counts of them are kept.
"""
