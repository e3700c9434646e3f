// Labels images with a .tflite file on Android, with LiteRT.
//
//     implementation("com.google.ai.edge.litert:litert:2.1.0")
//
// `python -m deeplab_tf.export.tflite --run_dir=RUN --output=model.tflite --input_size=513,513` makes
// the file; put it into src/main/assets. This program is based on the documentation of LiteRT, and
// was not compiled or run.

package org.example.labels

import android.content.Context
import android.graphics.Bitmap
import android.graphics.Color
import com.google.ai.edge.litert.Accelerator
import com.google.ai.edge.litert.CompiledModel

private const val PAD_PIXEL = 127.5f // the mean pixel of most backbones

/** The class id of every pixel, row by row. */
class Labels(val ids: IntArray, val rows: Int, val columns: Int)

/** Labels images by a file that takes [height] x [width] pixels. */
class ImageLabeller(context: Context, private val height: Int = 513, private val width: Int = 513) :
    AutoCloseable {
    // For the GPU, export with --result=scores, and take the largest score of each pixel.
    private val model =
        CompiledModel.create(context.assets, "model.tflite", CompiledModel.Options(Accelerator.CPU))
    private val inputs = model.createInputBuffers()
    private val outputs = model.createOutputBuffers()

    /** Returns the labels of an upright image, at the size that the network sees it at. */
    fun label(image: Bitmap): Labels {
        // Shrunk to fit, never stretched or enlarged; the padding lies at the bottom and right.
        val scale = minOf(height.toDouble() / image.height, width.toDouble() / image.width, 1.0)
        val columns = maxOf(1, (image.width * scale).toInt())
        val rows = maxOf(1, (image.height * scale).toInt())
        val colors = IntArray(rows * columns)
        Bitmap.createScaledBitmap(image, columns, rows, true)
            .getPixels(colors, 0, columns, 0, 0, columns, rows)
        val pixels = FloatArray(height * width * 3) { PAD_PIXEL }
        for (y in 0 until rows) {
            for (x in 0 until columns) {
                val color = colors[y * columns + x]
                val to = 3 * (y * width + x)
                pixels[to] = Color.red(color).toFloat()
                pixels[to + 1] = Color.green(color).toFloat()
                pixels[to + 2] = Color.blue(color).toFloat()
            }
        }
        inputs[0].writeFloat(pixels)
        model.run(inputs, outputs)
        val all = outputs[0].readInt()
        val ids = IntArray(rows * columns) { all[it / columns * width + it % columns] }
        return Labels(ids, rows, columns)
    }

    override fun close() {
        inputs.forEach { it.close() }
        outputs.forEach { it.close() }
        model.close()
    }
}
