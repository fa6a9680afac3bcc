package mediaapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	_ "image/gif" // decodes
	"image/jpeg"
	"image/png"
	"io"
	"io/fs"
	"net/http"
	"time"

	"golang.org/x/image/draw"
	_ "golang.org/x/image/webp" // decodes

	"weft/internal/cache"
	"weft/internal/httpapi"
	"weft/matrix/merr"
)

// spec: client-server §10.9.3 (the sizes a server should have); other requests
// get the next larger of these, so that a client cannot fill the disk.
var thumbnailSizes = []size{
	{32, 32, true}, {96, 96, true}, {320, 240, false}, {640, 480, false}, {800, 600, false},
}

const (
	headersBytes = 1 << 20 // some 5,000 images
	headersLife  = 24 * time.Hour
)

// size is a thumbnail's width, height and method.
type size struct {
	w, h int
	crop bool
}

func (z size) variant() string {
	method := "scale"
	if z.crop {
		method = "crop"
	}
	return fmt.Sprintf("%dx%d-%s", z.w, z.h, method)
}

// pickSize gives the smallest kept size that is no smaller than what was asked
// for; a size larger than all is served from the original.
func pickSize(w, h int, crop bool) (size, bool) {
	for _, z := range thumbnailSizes {
		if z.w >= w && z.h >= h {
			return size{z.w, z.h, crop}, true
		}
	}
	return size{}, false
}

// GetContentThumbnailAuthed serves a thumbnail to a client of this server.
//
// spec: client-server, GET /_matrix/client/v1/media/thumbnail/{serverName}/{mediaId}
func (s *Server) GetContentThumbnailAuthed(ctx context.Context, r *httpapi.Request) (any, error) {
	return s.getThumbnail(ctx, r, true)
}

// GetContentThumbnail serves a thumbnail to anybody, where that is switched on.
//
// spec: client-server, GET /_matrix/media/v3/thumbnail/{serverName}/{mediaId}
func (s *Server) GetContentThumbnail(ctx context.Context, r *httpapi.Request) (any, error) {
	remote, err := r.QueryBool("allow_remote", true)
	if err != nil {
		return nil, err
	}
	return s.getThumbnail(ctx, r, remote)
}

func (s *Server) getThumbnail(ctx context.Context, r *httpapi.Request, remote bool) (any, error) {
	z, kept, err := thumbnailParams(r)
	if err != nil {
		return nil, err
	}
	m, err := s.find(ctx, r, remote)
	if err != nil {
		return nil, err
	}
	variant, contentType, err := s.thumbnail(ctx, m, z, kept)
	if err != nil {
		return nil, err
	}
	return s.serve(ctx, m.hash, variant, contentType, m.fileName)
}

// ServeThumbnail serves a thumbnail of local media to another server.
//
// spec: server-server, GET /_matrix/federation/v1/media/thumbnail/{mediaId}
func (s *Server) ServeThumbnail(ctx context.Context, r *httpapi.Request) (any, error) {
	z, kept, err := thumbnailParams(r)
	if err != nil {
		return nil, err
	}
	m, err := s.findForServer(ctx, r)
	if err != nil {
		return nil, err
	}
	variant, contentType, err := s.thumbnail(ctx, m, z, kept)
	if err != nil {
		return nil, err
	}
	return s.serveMultipart(ctx, m.hash, variant, contentType, m.fileName)
}

func thumbnailParams(r *httpapi.Request) (size, bool, error) {
	for _, name := range []string{"width", "height"} {
		if r.Query().Get(name) == "" {
			return size{}, false, merr.MissingParam("%s is missing", name)
		}
	}
	w, err := r.QueryInt("width", 0, 1, 1<<20)
	if err != nil {
		return size{}, false, err
	}
	h, err := r.QueryInt("height", 0, 1, 1<<20)
	if err != nil {
		return size{}, false, err
	}
	method := r.Query().Get("method")
	if method != "" && method != "crop" && method != "scale" {
		return size{}, false, merr.InvalidParam("method is %q, not crop or scale", method)
	}
	z, kept := pickSize(int(w), int(h), method == "crop")
	return z, kept, nil
}

// thumbnail makes sure that a thumbnail is kept and tells which file to
// serve: the original, where it is smaller than what was asked for.
func (s *Server) thumbnail(ctx context.Context, m *media, z size, kept bool) (variant, contentType string, err error) {
	img, err := s.headers.Load(string(m.hash), func() (header, error) { return s.readHeader(ctx, m) })
	if err != nil {
		return "", "", err
	}
	if !kept || (img.w <= z.w && img.h <= z.h) {
		return "", "image/" + img.format, nil
	}
	if img.w*img.h > maxPixels {
		return "", "", merr.TooLarge("the image has more than %d pixels", maxPixels)
	}
	variant, contentType = z.variant(), "image/png"
	if img.format == "jpeg" {
		contentType = "image/jpeg"
	}
	if _, err := s.blobs.find(ctx, m.hash, variant); !errors.Is(err, fs.ErrNotExist) {
		return variant, contentType, err
	}
	key := string(m.hash) + variant
	_, err, _ = s.scales.Do(key, func() (any, error) { return nil, s.scale(context.WithoutCancel(ctx), m, z, img.format) })
	return variant, contentType, err
}

// header is what an image says about itself.
type header struct {
	w, h   int
	format string
}

// newHeaders remembers headers by hash, so that a thumbnail that is there takes no look at the original. The
// bytes of a hash never change.
func newHeaders(now func() time.Time) (*cache.Cache[string, header], error) {
	return cache.New(headersBytes, headersLife, now, func(hash string, h header) int { return len(hash) + len(h.format) + 32 })
}

// readHeader reads an image's header.
func (s *Server) readHeader(ctx context.Context, m *media) (header, error) {
	file, err := s.openOriginal(ctx, m)
	if err != nil {
		return header{}, err
	}
	cfg, format, err := image.DecodeConfig(file)
	if failed := file.end(); failed != nil {
		return header{}, failed
	}
	if err != nil || cfg.Width < 1 || cfg.Height < 1 {
		return header{}, merr.New(http.StatusBadRequest, "M_UNKNOWN", "the media is no image of a known kind")
	}
	return header{cfg.Width, cfg.Height, format}, nil
}

// original is a stored file that is decoded. It remembers that it could not be read, which decoders do not tell apart
// from an image that is broken.
type original struct {
	io.ReadCloser
	failed error
}

func (s *Server) openOriginal(ctx context.Context, m *media) (*original, error) {
	b, err := s.blobs.find(ctx, m.hash, "")
	if err != nil {
		return nil, fmt.Errorf("mediaapi: a stored file cannot be had: %w", err)
	}
	r, err := b.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("mediaapi: a stored file cannot be had: %w", err)
	}
	return &original{ReadCloser: r}, nil
}

// Read implements io.Reader.
func (o *original) Read(p []byte) (int, error) {
	n, err := o.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		o.failed = err
	}
	return n, err
}

// end closes the file and tells what went wrong with it.
func (o *original) end() error {
	if err := errors.Join(o.failed, o.Close()); err != nil {
		return fmt.Errorf("mediaapi: reading a stored file: %w", err)
	}
	return nil
}

// scale makes one thumbnail.
func (s *Server) scale(ctx context.Context, m *media, z size, format string) error {
	if err := s.scaling.Acquire(ctx, 1); err != nil {
		return err
	}
	defer s.scaling.Release(1)
	file, err := s.openOriginal(ctx, m)
	if err != nil {
		return err
	}
	src, _, err := image.Decode(file)
	if failed := file.end(); failed != nil {
		return failed
	}
	if err != nil {
		return merr.Unknown("the image cannot be decoded: %v", err)
	}
	dst := resize(src, z)
	var buf bytes.Buffer
	if format == "jpeg" {
		err = jpeg.Encode(&buf, dst, &jpeg.Options{Quality: 85})
	} else {
		err = png.Encode(&buf, dst)
	}
	if err != nil {
		return fmt.Errorf("mediaapi: encoding a thumbnail: %w", err)
	}
	return s.blobs.putVariant(ctx, m.hash, z.variant(), buf.Bytes())
}

// resize scales src down to z. Scaling keeps the aspect ratio and makes neither
// side smaller than asked for; cropping cuts the middle out. Nothing is ever
// enlarged.
func resize(src image.Image, z size) image.Image {
	b := src.Bounds()
	w, h := b.Dx(), b.Dy()
	// The smallest factor at which both sides are at least as asked for.
	f := min(max(float64(z.w)/float64(w), float64(z.h)/float64(h)), 1)
	tw, th := max(int(float64(w)*f+0.5), 1), max(int(float64(h)*f+0.5), 1)
	if z.crop {
		cw, ch := min(int(float64(z.w)/f), w), min(int(float64(z.h)/f), h)
		x, y := b.Min.X+(w-cw)/2, b.Min.Y+(h-ch)/2
		b = image.Rect(x, y, x+cw, y+ch)
		tw, th = min(z.w, tw), min(z.h, th)
	}
	dst := image.NewRGBA(image.Rect(0, 0, tw, th))
	draw.ApproxBiLinear.Scale(dst, dst.Bounds(), src, b, draw.Src, nil)
	return dst
}
