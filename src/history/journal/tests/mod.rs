//! The journal as a whole; what one file does alone is tested in that file.

mod capture;
mod crash;
mod damage;
mod faults;
mod fixtures;
mod hostile;
mod increments;
mod keyed;
mod lookup;
mod paths;
mod round_trip;
mod sealed;
mod stream;
