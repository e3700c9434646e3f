"""Everything to look at: colours over images, legends, panels, videos."""
