"""Four channels of a pixel at once in numba.

LLVM does not turn a loop over pixels from anywhere in a row into instructions of vectors.

Numba's cache checks only the file of the caller: after editing this file, delete `__pycache__`.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 4
SPARE = LANES - 1  # numbers behind the last pixel that are read and written with it

_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_BYTES = ir.VectorType(ir.IntType(8), LANES)


@intrinsic
def interpolate(typing_context, row, before, after, share, result, target):
    """Writes the mixture of the bytes at `row[before:]` and `row[after:]` to `result[target:]`.

    Args:
        row: Flat uint8 array.
        before: Index of four values.
        after: Index of four others.
        share: float32, the weight of the latter.
        result: Flat float32 array.
        target: Where to write the four mixtures.
    """

    def generate(context, builder, signature, arguments):
        row, before, after, share, result, target = arguments
        row, result = (
            cgutils.create_struct_proxy(signature.args[i])(context, builder, arguments[i]).data
            for i in (0, 4)
        )

        def loaded(index):
            address = builder.bitcast(builder.gep(row, [index]), _BYTES.as_pointer())
            return builder.uitofp(builder.load(address, align=1), _FLOATS)

        first = loaded(before)
        # "contract" lets a product and a sum become one instruction.
        change = builder.fsub(loaded(after), first)
        product = builder.fmul(change, _spread(builder, share), flags=["contract"])
        mixture = builder.fadd(first, product, flags=["contract"])
        address = builder.bitcast(builder.gep(result, [target]), _FLOATS.as_pointer())
        builder.store(mixture, address, align=4)
        return context.get_dummy_value()

    return types.none(row, before, after, share, result, target), generate


def _spread(builder, number):
    """Returns the vector that holds one number four times."""
    undefined = ir.Constant(_FLOATS, ir.Undefined)
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    one = builder.insert_element(undefined, number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, undefined, zeros)
