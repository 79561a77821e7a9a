/* Shared by stream.c and stream_coded.c. */
#pragma once

#include "net/stream.h"

/* An op came back while the stream is being terminated: closes the stream if no op is left. */
void stream_join(struct stream *stream);

/* Starts the read that the stream's fields describe. */
void stream_read_more(struct stream *stream);
/* Starts the write that they describe; may call `write_done` inside. */
void stream_write_now(struct stream *stream);
/* The handshakes are over and have made no link. */
void stream_be_plain(struct stream *stream);

/* Reading and writing if the stream is coded, or is being prepared; the stream's fields say what to
 * read or write. */
void stream_coded_read(struct stream *stream);
void stream_coded_read_now(struct stream *stream);
void stream_coded_write(struct stream *stream);
/* Says the end of stream, if the link has a message for it. Accepts a plain stream. */
void stream_coding_end(struct stream *stream);
/* Frees the handshakes and the link. Accepts a plain stream. */
void stream_coding_finish(struct stream *stream);
