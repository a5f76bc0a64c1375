// Kernels return a Status: nullptr for success, otherwise a static sentence. No exception crosses this line.
#pragma once

namespace roots {
using Status = const char*;
}
