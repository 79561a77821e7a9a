/* What stream.c and stream_noise.c share. */
#pragma once

#include "net/stream.h"

/* An op came back while the stream is being torn down: closes it if that was the last. */
void stream_join(struct stream *stream);

/* The encrypted ways of reading and writing; fields of the stream say what. */
void stream_noise_read(struct stream *stream);
void stream_noise_read_now(struct stream *stream);
void stream_noise_write(struct stream *stream);
/* Frees and wipes; a plain stream is allowed. */
void stream_noise_finish(struct stream *stream);
