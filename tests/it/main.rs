//! One binary for all end-to-end tests.

mod cluster;
mod house;
mod main_job;
mod os_user;
