// What the stand-in notices: what a real device would make the host wait for, and what it would do wrong.
#pragma once
#include <string>

// The host waits for the device, or a copy goes through memory that the device cannot read by itself.
void noted(const std::string &what);

// Work that a real device may do late: copies between it and pinned memory. All of it is done here.
void settle();
