//! Discriminators: a picture and the age that it should show in, judgements out.

mod patch;
