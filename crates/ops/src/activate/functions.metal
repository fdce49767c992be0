#include <metal_stdlib>
using namespace metal;

// By the codes of the activations.
inline float activation_of(float x, uint activation) {
  if (activation == 0) {
    return x / (1.0f + precise::exp(-x));
  }
  if (activation == 1) {
    // Where tanh is 1 to the last bit; some compilers make it of an exponential that would overflow.
    const float inner = clamp(0.7978845608f * (x + 0.044715f * x * x * x), -10.0f, 10.0f);
    return 0.5f * x * (1.0f + precise::tanh(inner));
  }
  const float positive = max(x, 0.0f);
  return positive * positive;
}
