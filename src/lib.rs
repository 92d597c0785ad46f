//! scx_mosix: a few Linux machines that work as one.
