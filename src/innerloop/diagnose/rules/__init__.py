"""Every rule of the doctor, in the order in which they are asked."""
