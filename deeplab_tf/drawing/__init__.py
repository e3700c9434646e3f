"""What people look at: colours over images, legends, panels, videos."""
