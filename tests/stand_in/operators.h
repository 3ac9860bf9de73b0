// Recording of the operators that a graph of CUDA consists of.
#pragma once
#include <functional>
#include <vector>

// What has been recorded, in order; each may be called again.
using Recording = std::vector<std::function<void()>>;

// Records what this thread and those of its backward passes do from now on, until it is null again.
void record_into(Recording *recording);
