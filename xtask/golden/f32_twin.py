"""Writes the F32 twin of a GGUF file: the same metadata, every tensor dequantized by the gguf package.

llama.cpp rounds activations before a product with quantized, F16 or BF16 weights. The twin has the same
numbers as weights and no such rounding.
"""

from pathlib import Path

import gguf
import numpy as np


def write(source: Path, target: Path) -> None:
    reader = gguf.GGUFReader(source)
    arch = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, arch)
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        kind = field.types[0]
        item = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), kind, item)
    f32 = gguf.GGMLQuantizationType.F32
    for tensor in reader.tensors:
        shape = [int(n) for n in reversed(tensor.shape)]
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.float32), int(np.prod(shape)) * 4, f32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.write_tensor_data(np.ascontiguousarray(values))
    writer.close()
