// Labels images with a .tflite file on Android, with MediaPipe.
//
//     implementation("com.google.mediapipe:tasks-vision:0.10.26")
//
// `python -m deeplab_tf.export.tflite --run_dir=RUN --output=model.tflite --result=scores` makes the
// file; put it into src/main/assets. MediaPipe stretches an image to the input size of the file: give
// it images with that aspect ratio. This program is based on the documentation of MediaPipe, and was
// not compiled or run. `mediapipe.html`, its counterpart for browsers, is run by a test.

package org.example.labels

import android.content.Context
import android.graphics.Bitmap
import com.google.mediapipe.framework.image.BitmapImageBuilder
import com.google.mediapipe.framework.image.ByteBufferExtractor
import com.google.mediapipe.tasks.core.BaseOptions
import com.google.mediapipe.tasks.core.Delegate
import com.google.mediapipe.tasks.vision.core.RunningMode
import com.google.mediapipe.tasks.vision.imagesegmenter.ImageSegmenter

class MediaPipeLabeller(context: Context) : AutoCloseable {
    private val segmenter =
        ImageSegmenter.createFromOptions(
            context,
            ImageSegmenter.ImageSegmenterOptions.builder()
                .setBaseOptions(
                    BaseOptions.builder()
                        .setModelAssetPath("model.tflite")
                        .setDelegate(Delegate.CPU) // or GPU
                        .build()
                )
                .setRunningMode(RunningMode.IMAGE)
                .setOutputCategoryMask(true)
                .setOutputConfidenceMasks(false)
                .build(),
        )

    /** The names of the classes, in the order of their ids. */
    val classNames: List<String>
        get() = segmenter.labels

    /** Returns the class id of every pixel of an ARGB_8888 image, row by row. */
    fun label(image: Bitmap): IntArray {
        val mask = segmenter.segment(BitmapImageBuilder(image).build()).categoryMask().get()
        val bytes = ByteBufferExtractor.extract(mask)
        return IntArray(mask.width * mask.height) { bytes.get(it).toInt() and 255 }
    }

    override fun close() = segmenter.close()
}
