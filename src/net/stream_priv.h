/* Shared by stream.c and stream_noise.c. */
#pragma once

#include "net/stream.h"

/* An op came back while the stream is being terminated: closes the stream if no op is left. */
void stream_join(struct stream *stream);

/* Reading and writing with Noise; the stream's fields say what to read or write. */
void stream_noise_read(struct stream *stream);
void stream_noise_read_now(struct stream *stream);
void stream_noise_write(struct stream *stream);
/* Wipes and frees the Noise state. Accepts a plain stream. */
void stream_noise_finish(struct stream *stream);
