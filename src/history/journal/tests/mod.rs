//! The journal as a whole; what one file does alone is tested in that file.

mod capture;
mod crash;
mod damage;
mod fixtures;
mod hostile;
mod keyed;
mod round_trip;
mod stream;
