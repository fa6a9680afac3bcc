package mediaapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"time"

	"weft/internal/fedclient"
	"weft/internal/httpapi"
	"weft/internal/sqldb"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// inlineTypes may be shown in a browser without a script of theirs running on
// this server's domain.
//
// spec: client-server §10.9.4.1 (Serving inline content)
const inlineTypes = " text/css text/plain text/csv application/json application/ld+json image/jpeg image/gif image/png" +
	" image/apng image/webp image/avif video/mp4 video/webm video/ogg video/quicktime audio/mp4 audio/webm audio/aac" +
	" audio/mpeg audio/ogg audio/wave audio/wav audio/x-wav audio/x-pn-wav audio/flac audio/x-flac "

// spec: client-server §10.9 (recommended policy)
const contentSecurityPolicy = "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; " +
	"style-src 'unsafe-inline'; object-src 'self';"

// GetContentAuthed serves media to a client of this server.
//
// spec: client-server, GET /_matrix/client/v1/media/download/{serverName}/{mediaId}
func (s *Server) GetContentAuthed(ctx context.Context, r *httpapi.Request) (any, error) {
	return s.download(ctx, r, true)
}

// GetContent serves media to anybody, where that is switched on.
//
// spec: client-server, GET /_matrix/media/v3/download/{serverName}/{mediaId}
func (s *Server) GetContent(ctx context.Context, r *httpapi.Request) (any, error) {
	remote, err := r.QueryBool("allow_remote", true)
	if err != nil {
		return nil, err
	}
	return s.download(ctx, r, remote)
}

func (s *Server) download(ctx context.Context, r *httpapi.Request, remote bool) (any, error) {
	m, err := s.find(ctx, r, remote)
	if err != nil {
		return nil, err
	}
	name := m.fileName
	if v := r.Vars["fileName"]; v != "" {
		name = v
	}
	return s.serve(ctx, m.hash, "", m.contentType, name)
}

// find gives the media a client asks for: it waits for an upload that is still
// to come, and fetches what belongs to another server.
func (s *Server) find(ctx context.Context, r *httpapi.Request, remote bool) (*media, error) {
	origin, mediaID, err := mediaVars(r)
	if err != nil {
		return nil, err
	}
	wait, err := waitTime(r)
	if err != nil {
		return nil, err
	}
	if origin == s.ServerName {
		return s.findLocal(ctx, mediaID, wait)
	}
	m, err := s.getRemote(ctx, origin, mediaID)
	if err != nil || m != nil {
		return m, err
	}
	if !remote {
		return nil, errNoMedia
	}
	return s.fetch(ctx, origin, mediaID, wait)
}

// waitTime reads timeout_ms.
func waitTime(r *httpapi.Request) (time.Duration, error) {
	ms, err := r.QueryInt("timeout_ms", defaultWait.Milliseconds(), 0, 1<<31)
	if err != nil {
		return 0, err
	}
	return min(time.Duration(ms)*time.Millisecond, maxWait), nil
}

// findLocal finds media of this server.
func (s *Server) findLocal(ctx context.Context, mediaID string, wait time.Duration) (*media, error) {
	done, stop := s.arrived.wait(mediaID)
	defer stop()
	m, err := s.get(ctx, s.DB, s.ServerName, mediaID)
	if err != nil {
		return nil, err
	}
	if m == nil {
		return nil, errNoMedia
	}
	if m.hash != nil {
		return m, nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	case <-ctx.Done():
	}
	// The row decides, not what was heard of it.
	if m, err = s.get(context.WithoutCancel(ctx), s.DB, s.ServerName, mediaID); err != nil {
		return nil, err
	}
	if m == nil || m.hash == nil {
		return nil, merr.NotYetUploaded("media %s was not uploaded yet", mediaID)
	}
	return m, nil
}

// fetch gets media from its server and keeps it. Clients that ask at the same
// time share one fetch, which goes on when one of them leaves.
func (s *Server) fetch(ctx context.Context, origin id.Server, mediaID string, wait time.Duration) (*media, error) {
	ch := s.fetches.DoChan(string(origin)+"/"+mediaID, func() (any, error) {
		return s.fetchOnce(context.WithoutCancel(ctx), origin, mediaID, wait)
	})
	select {
	case <-ctx.Done():
		return nil, merr.ConnectionTimeout("the request ended before %s sent the media", origin)
	case res := <-ch:
		if res.Err != nil {
			return nil, res.Err
		}
		return res.Val.(*media), nil
	}
}

func (s *Server) fetchOnce(ctx context.Context, origin id.Server, mediaID string, wait time.Duration) (*media, error) {
	if m, err := s.getRemote(ctx, origin, mediaID); err != nil || m != nil {
		return m, err
	}
	got, err := s.Remote.DownloadMedia(ctx, fedclient.MediaRequest{
		Server: origin, MediaID: mediaID, MaxBytes: s.MaxUpload, WaitMS: wait.Milliseconds(),
	})
	if err != nil {
		return nil, remoteError(origin, err)
	}
	m := media{origin: origin, mediaID: mediaID, contentType: cleanContentType(got.ContentType)}
	if _, params, err := mime.ParseMediaType(got.ContentDisposition); err == nil {
		m.fileName = cleanFileName(params["filename"])
	}
	f, err := s.spool.take(got.Body, s.MaxUpload)
	if cErr := got.Body.Close(); err == nil && cErr != nil {
		err = errors.Join(cErr, f.discard())
	}
	if err != nil {
		return nil, remoteError(origin, err)
	}
	return &m, s.store(ctx, f, &m, func(tx *sqldb.Tx) error { return s.insert(ctx, tx, m) })
}

// remoteError says what a client is told when another server's media cannot be
// had.
//
// spec: client-server §10.9.4 (502 for what is too large)
func remoteError(origin id.Server, err error) error {
	var e *merr.Error
	switch {
	case errors.Is(err, merr.ErrNotFound):
		return errNoMedia
	case errors.Is(err, merr.ErrNotYetUploaded):
		return merr.NotYetUploaded("%s has not got the media yet", origin)
	case errors.Is(err, merr.ErrTooLarge) || errors.Is(err, fedclient.ErrResponseTooLarge):
		return merr.TooLarge("the media of %s is too large for this server", origin).WithStatus(http.StatusBadGateway)
	case errors.As(err, &e):
		return merr.ConnectionFailed("%s: %s", origin, e.Message)
	}
	return errors.Join(merr.ConnectionFailed("the media could not be fetched from %s", origin), err)
}

// cleanFileName keeps a name that may stand in a header.
func cleanFileName(name string) string {
	if len(name) > maxFileName || strings.ContainsAny(name, "\x00\r\n") {
		return ""
	}
	return name
}

// serve streams a stored file.
func (s *Server) serve(ctx context.Context, hash []byte, variant, contentType, name string) (any, error) {
	b, err := s.blobs.find(ctx, hash, variant)
	if err != nil {
		return nil, fmt.Errorf("mediaapi: a stored file cannot be had: %w", err)
	}
	h := http.Header{}
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.FormatInt(b.size, 10))
	h.Set("Content-Disposition", disposition(contentType, name))
	h.Set("Content-Security-Policy", contentSecurityPolicy)
	h.Set("Cross-Origin-Resource-Policy", "cross-origin")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "private, max-age=31536000, immutable")
	return &httpapi.Response{Header: h, Stream: func(w io.Writer) error { return b.copy(ctx, w) }}, nil
}

// disposition tells a browser to show safe types and to save all others.
func disposition(contentType, name string) string {
	kind := "attachment"
	if t, _, err := mime.ParseMediaType(contentType); err == nil && strings.Contains(inlineTypes, " "+t+" ") {
		kind = "inline"
	}
	if name == "" {
		return kind
	}
	if v := mime.FormatMediaType(kind, map[string]string{"filename": name}); v != "" {
		return v
	}
	return kind
}

// ServeContent serves local media to another server.
//
// spec: server-server, GET /_matrix/federation/v1/media/download/{mediaId}
func (s *Server) ServeContent(ctx context.Context, r *httpapi.Request) (any, error) {
	m, err := s.findForServer(ctx, r)
	if err != nil {
		return nil, err
	}
	return s.serveMultipart(ctx, m.hash, "", m.contentType, m.fileName)
}

func (s *Server) findForServer(ctx context.Context, r *httpapi.Request) (*media, error) {
	mediaID, err := checkMediaID(r.Vars["mediaId"])
	if err != nil {
		return nil, err
	}
	wait, err := waitTime(r)
	if err != nil {
		return nil, err
	}
	return s.findLocal(ctx, mediaID, wait)
}

// serveMultipart streams a file as the second part of multipart/mixed; the
// first is metadata, of which there is none yet.
func (s *Server) serveMultipart(ctx context.Context, hash []byte, variant, contentType, name string) (any, error) {
	b, err := s.blobs.find(ctx, hash, variant)
	if err != nil {
		return nil, fmt.Errorf("mediaapi: a stored file cannot be had: %w", err)
	}
	boundary := multipart.NewWriter(&bytes.Buffer{}).Boundary()
	h := http.Header{}
	h.Set("Content-Type", "multipart/mixed; boundary="+boundary)
	return &httpapi.Response{Header: h, Stream: func(w io.Writer) error {
		mw := multipart.NewWriter(w)
		if err := mw.SetBoundary(boundary); err != nil {
			return err
		}
		meta, err := mw.CreatePart(textproto.MIMEHeader{"Content-Type": {"application/json"}})
		if err != nil {
			return err
		}
		if _, err := io.WriteString(meta, "{}"); err != nil {
			return err
		}
		part, err := mw.CreatePart(textproto.MIMEHeader{
			"Content-Type": {contentType}, "Content-Disposition": {disposition(contentType, name)},
		})
		if err != nil {
			return err
		}
		if err := b.copy(ctx, part); err != nil {
			return err
		}
		return mw.Close()
	}}, nil
}
