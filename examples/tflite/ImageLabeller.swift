// Labels images with a .tflite file on iOS, with LiteRT's pod TensorFlowLiteSwift.
//
// `python -m deeplab_tf.export.tflite --run_dir=RUN --output=model.tflite` makes the file; add it to
// the target of the app. This program is based on the source of the pod, and was not compiled or run.

import CoreGraphics
import Foundation
import TensorFlowLite

let padPixel: Float = 127.5  // the mean pixel of most backbones

/// The class id of every pixel, row by row.
struct Labels {
  let ids: [Int32]
  let rows: Int
  let columns: Int
}

final class ImageLabeller {
  private let interpreter: Interpreter
  private let height: Int
  private let width: Int

  init(modelPath: String) throws {
    interpreter = try Interpreter(modelPath: modelPath)
    try interpreter.allocateTensors()
    let shape = try interpreter.input(at: 0).shape.dimensions
    (height, width) = (shape[1], shape[2])
  }

  /// Returns the labels of an upright image, at the size that the network sees it at.
  func label(_ image: CGImage) throws -> Labels {
    // Shrunk to fit, never stretched or enlarged; the padding lies at the bottom and right.
    let scale = min(
      Double(height) / Double(image.height), Double(width) / Double(image.width), 1)
    let columns = max(1, Int(Double(image.width) * scale))
    let rows = max(1, Int(Double(image.height) * scale))
    var rgba = [UInt8](repeating: 0, count: rows * columns * 4)
    rgba.withUnsafeMutableBytes { bytes in
      CGContext(
        data: bytes.baseAddress, width: columns, height: rows, bitsPerComponent: 8,
        bytesPerRow: columns * 4, space: CGColorSpace(name: CGColorSpace.sRGB)!,
        bitmapInfo: CGImageAlphaInfo.noneSkipLast.rawValue
      )!.draw(image, in: CGRect(x: 0, y: 0, width: columns, height: rows))
    }
    var pixels = [Float](repeating: padPixel, count: height * width * 3)
    for y in 0..<rows {
      for x in 0..<columns {
        for channel in 0..<3 {
          pixels[3 * (y * width + x) + channel] = Float(rgba[4 * (y * columns + x) + channel])
        }
      }
    }
    try interpreter.copy(pixels.withUnsafeBytes { Data($0) }, toInputAt: 0)
    try interpreter.invoke()
    let all = try interpreter.output(at: 0).data.withUnsafeBytes { Array($0.bindMemory(to: Int32.self)) }
    let ids = (0..<rows * columns).map { all[$0 / columns * width + $0 % columns] }
    return Labels(ids: ids, rows: rows, columns: columns)
  }
}
