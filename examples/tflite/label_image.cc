// Labels a PPM image with a .tflite file, with LiteRT's C++ interface.
//
//     label_image model.tflite HEIGHT WIDTH photo.ppm labels.pgm
//
// `python -m deeplab_tf.export.tflite --run_dir=RUN --output=model.tflite --input_size=HEIGHT,WIDTH`
// makes the file. Build it with the headers and the library of https://github.com/google-ai-edge/LiteRT.
// The image must not be larger than HEIGHT and WIDTH: shrink it before, and keep its aspect ratio.
// This program is based on the documentation of LiteRT, and was not compiled or run.

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "litert/cc/litert_compiled_model.h"
#include "litert/cc/litert_environment.h"
#include "litert/cc/litert_macros.h"

constexpr float kPadPixel = 127.5f;  // the mean pixel of most backbones

int main(int argc, char** argv) {
  if (argc != 6) return std::cerr << "label_image MODEL HEIGHT WIDTH PPM PGM\n", 1;
  const int height = std::atoi(argv[2]), width = std::atoi(argv[3]);

  std::ifstream photo(argv[4], std::ios::binary);
  std::string format;
  int columns = 0, rows = 0, largest = 0;
  photo >> format >> columns >> rows >> largest;
  photo.get();
  if (format != "P6" || largest != 255 || columns < 1 || columns > width || rows < 1 || rows > height)
    return std::cerr << argv[4] << " is not a P6 image that fits\n", 1;
  std::vector<uint8_t> rgb(3 * rows * columns);
  photo.read(reinterpret_cast<char*>(rgb.data()), rgb.size());

  // The padding lies at the bottom and right.
  std::vector<float> pixels(3 * height * width, kPadPixel);
  for (int y = 0; y < rows; ++y)
    for (int i = 0; i < 3 * columns; ++i) pixels[3 * y * width + i] = rgb[3 * y * columns + i];

  LITERT_ASSIGN_OR_ABORT(auto environment, litert::Environment::Create({}));
  LITERT_ASSIGN_OR_ABORT(auto model, litert::CompiledModel::Create(environment, argv[1],
                                                                   litert::HwAccelerators::kCpu));
  LITERT_ASSIGN_OR_ABORT(auto inputs, model.CreateInputBuffers());
  LITERT_ASSIGN_OR_ABORT(auto outputs, model.CreateOutputBuffers());
  LITERT_ABORT_IF_ERROR(inputs[0].Write<float>(absl::MakeConstSpan(pixels)));
  LITERT_ABORT_IF_ERROR(model.Run(inputs, outputs));
  std::vector<int32_t> labels(height * width);
  LITERT_ABORT_IF_ERROR(outputs[0].Read<int32_t>(absl::MakeSpan(labels)));

  std::ofstream output(argv[5], std::ios::binary);
  output << "P5 " << columns << " " << rows << " 255\n";
  for (int y = 0; y < rows; ++y)
    for (int x = 0; x < columns; ++x) output.put(static_cast<char>(labels[y * width + x]));
  return output ? 0 : 1;
}
