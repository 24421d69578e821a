"""Audio files to decode, written by libav."""

import io
import struct
from fractions import Fraction

import av
import numpy as np

# container, codec, sample rate, sample format, and how much of the signal survives, in dB
KINDS = {
    "wav": ("wav", "pcm_s16le", 44100, "s16", 70),
    "wav of 8 kHz": ("wav", "pcm_s16le", 8000, "s16", 70),
    "wav of 24 bits": ("wav", "pcm_s24le", 96000, "s32", 80),
    "wav of floats": ("wav", "pcm_f32le", 48000, "flt", 80),
    "wav of µ-law": ("wav", "pcm_mulaw", 8000, "s16", 30),
    "aiff": ("aiff", "pcm_s16be", 22050, "s16", 70),
    "mp3": ("mp3", "libmp3lame", 44100, "fltp", 20),
    "m4a": ("ipod", "aac", 48000, "fltp", 20),
    "alac": ("ipod", "alac", 44100, "s16p", 70),
    "flac": ("flac", "flac", 44100, "s16", 70),
    "ogg": ("ogg", "libopus", 48000, "flt", 15),
    "webm": ("webm", "libopus", 48000, "flt", 15),
}
SCALES = {"s16": np.int16, "s32": np.int32, "flt": np.float32}


def signal(seconds, rate):
    """Three tones that speech has, fading in and out; [seconds * rate] within -0.6..0.6."""
    time = np.arange(round(seconds * rate)) / rate
    tones = sum(np.sin(2 * np.pi * hz * time) for hz in (300, 1000, 2500))
    return 0.2 * tones * np.sin(np.pi * time / seconds) ** 2


def frames(channels, rate, sample_format, layout):
    """Frames of 1000 samples of `channels` [channels, samples] in -1..1."""
    kind = SCALES[sample_format.removesuffix("p")]
    scale = 1 if kind is np.float32 else np.iinfo(kind).max
    values = np.round(channels * scale) if scale > 1 else channels
    for start in range(0, values.shape[1], 1000):
        part = values[:, start : start + 1000].astype(kind)
        packed = part if sample_format.endswith("p") else part.T.reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(packed), format=sample_format, layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        yield frame


def add_audio(container, channels, codec, rate, sample_format, layout):
    stream = container.add_stream(codec, rate=rate, layout=layout)
    stream.codec_context.format = sample_format
    for frame in [*frames(np.atleast_2d(channels), rate, sample_format, layout), None]:
        container.mux(stream.encode(frame))


def encode(kind, channels, layout="mono", **options):
    """The bytes of a file of `channels`, [samples] or [channels, samples] at the kind's rate."""
    container_format, codec, rate, sample_format, _ = KINDS[kind]
    file = io.BytesIO()
    with av.open(file, "w", format=container_format, options=options) as container:
        add_audio(container, channels, codec, rate, sample_format, layout)
    return file.getvalue()


def encode_signal(kind, seconds=2.0, **options):
    return encode(kind, signal(seconds, KINDS[kind][2]), **options)


def encode_video(audios=()):
    """An mp4 of ten black pictures and a stream of AAC for each of `audios`, [samples] at 48 kHz."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        streams = [container.add_stream("aac", rate=48000, layout="mono") for _ in audios]
        for _ in range(10):
            container.mux(video.encode(av.VideoFrame(64, 64, "yuv420p")))
        container.mux(video.encode(None))
        for stream, audio in zip(streams, audios, strict=True):
            for frame in [*frames(audio[None], 48000, "fltp", "mono"), None]:
                container.mux(stream.encode(frame))
    return file.getvalue()


def wav(samples, rate=16000, num_channels=1):
    """A wav file of `samples` [n * channels], int16 or float32, whatever rate and channels its header then claims."""
    samples = np.asarray(samples)
    tag, size = (3, 4) if samples.dtype == np.float32 else (1, 2)
    data = samples.astype(np.float32 if tag == 3 else np.int16).tobytes()
    block = num_channels * size
    header = struct.pack("<HHIIHH", tag, num_channels, rate, rate * block % 2**32, block, 8 * size)
    chunks = b"fmt " + struct.pack("<I", 16) + header + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def opus_silence(seconds):
    """Ogg of one packet of silence, 20 ms long, again and again: 250 bytes a second."""
    file, encoder = io.BytesIO(), av.CodecContext.create("libopus", "w")
    encoder.sample_rate, encoder.layout, encoder.format = 48000, "mono", "flt"
    packets = [p for f in frames(np.zeros((1, 48000)), 48000, "flt", "mono") for p in encoder.encode(f)]
    silence = bytes(packets[-1])
    with av.open(file, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=48000, layout="mono")
        for index in range(round(seconds * 50)):
            packet = av.Packet(silence)
            packet.stream, packet.time_base = stream, Fraction(1, 48000)
            packet.pts = packet.dts = index * 960
            container.mux(packet)
    return file.getvalue()
