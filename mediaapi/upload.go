package mediaapi

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"mime"
	"net/http"
	"strings"

	"weft/internal/httpapi"
	"weft/internal/sqldb"
	"weft/matrix/id"
	"weft/matrix/merr"
)

// newMediaID makes an ID that cannot be guessed.
func newMediaID() string {
	raw := make([]byte, 18)
	rand.Read(raw) // never fails: crypto/rand ends the program where there is no randomness
	return base64.RawURLEncoding.EncodeToString(raw)
}

func (s *Server) uri(mediaID string) string {
	return "mxc://" + string(s.ServerName) + "/" + mediaID
}

// GetConfig tells clients how much they may upload.
//
// spec: client-server, GET /_matrix/client/v1/media/config
func (s *Server) GetConfig(context.Context, *httpapi.Request) (any, error) {
	return map[string]int64{"m.upload.size": s.MaxUpload}, nil
}

// UploadContent stores a file under a new ID.
//
// spec: client-server, POST /_matrix/media/v3/upload
func (s *Server) UploadContent(ctx context.Context, r *httpapi.Request) (any, error) {
	m, err := s.describe(r)
	if err != nil {
		return nil, err
	}
	m.mediaID = newMediaID()
	if err := s.receive(ctx, r, &m, func(tx *sqldb.Tx) error { return s.insert(ctx, tx, m) }); err != nil {
		return nil, err
	}
	return map[string]string{"content_uri": s.uri(m.mediaID)}, nil
}

// CreateContent reserves an ID for a later upload.
//
// spec: client-server, POST /_matrix/media/v1/create
func (s *Server) CreateContent(ctx context.Context, r *httpapi.Request) (any, error) {
	expires := s.Now().Add(pendingTTL).UnixMilli()
	m := media{origin: s.ServerName, mediaID: newMediaID(), uploader: r.Session.User, expires: expires}
	if err := s.create(ctx, m); err != nil {
		return nil, err
	}
	return map[string]any{"content_uri": s.uri(m.mediaID), "unused_expires_at": expires}, nil
}

// UploadContentToMXC fills a reserved ID.
//
// spec: client-server, PUT /_matrix/media/v3/upload/{serverName}/{mediaId}
func (s *Server) UploadContentToMXC(ctx context.Context, r *httpapi.Request) (any, error) {
	origin, mediaID, err := mediaVars(r)
	if err != nil {
		return nil, err
	}
	if origin != s.ServerName {
		return nil, merr.NotFound("%s is not this server", origin)
	}
	if err := s.checkPending(ctx, s.DB, r.Session.User, mediaID); err != nil {
		return nil, err
	}
	m, err := s.describe(r)
	if err != nil {
		return nil, err
	}
	m.mediaID = mediaID
	return nil, s.receive(ctx, r, &m, func(tx *sqldb.Tx) error { return s.fill(ctx, tx, m) })
}

// describe reads what an upload says about itself.
func (s *Server) describe(r *httpapi.Request) (media, error) {
	if r.HTTP.ContentLength > s.MaxUpload {
		return media{}, merr.TooLarge("the content is larger than %d bytes", s.MaxUpload)
	}
	m := media{origin: s.ServerName, uploader: r.Session.User}
	m.contentType = cleanContentType(r.HTTP.Header.Get("Content-Type"))
	m.fileName = r.Query().Get("filename")
	if len(m.fileName) > maxFileName || strings.ContainsAny(m.fileName, "\x00\r\n") {
		return media{}, merr.InvalidParam("filename is longer than %d bytes, or holds control characters", maxFileName)
	}
	return m, nil
}

// receive takes in the bytes of an upload and keeps them. name writes the row.
func (s *Server) receive(ctx context.Context, r *httpapi.Request, m *media, name func(tx *sqldb.Tx) error) error {
	f, err := s.spool.take(r.HTTP.Body, s.MaxUpload)
	if err != nil {
		return err
	}
	return s.store(ctx, f, m, name)
}

// store puts what came in where it stays, and runs name in the transaction with which it is there. m has the hash and the
// size by then.
func (s *Server) store(ctx context.Context, f *spooled, m *media, name func(tx *sqldb.Tx) error) error {
	m.hash, m.size = f.hash, f.size
	err := s.blobs.put(ctx, f, name)
	if dErr := f.discard(); dErr != nil {
		s.Log.WithError(dErr).Warn("a file stays in the folder of those that come in, for a day or two")
	}
	return err
}

// cleanContentType keeps a well-formed content type of a sane length.
func cleanContentType(v string) string {
	if _, _, err := mime.ParseMediaType(v); err != nil || len(v) > maxContentType {
		return "application/octet-stream"
	}
	return v
}

// mediaVars reads and checks the path's mxc parts.
//
// spec: client-server §10.9.4 (only these characters, against path traversal)
func mediaVars(r *httpapi.Request) (id.Server, string, error) {
	origin, err := id.ParseServer(r.Vars["serverName"])
	if err != nil {
		return "", "", merr.InvalidParam("%q is no server name", r.Vars["serverName"])
	}
	mediaID, err := checkMediaID(r.Vars["mediaId"])
	return origin, mediaID, err
}

func checkMediaID(mediaID string) (string, error) {
	if mediaID == "" || len(mediaID) > 255 {
		return "", merr.NotFound("there is no such media")
	}
	for _, c := range []byte(mediaID) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-') {
			return "", merr.NotFound("%q is no media ID", mediaID)
		}
	}
	return mediaID, nil
}

// Routes are the endpoints of the content repository.
func (s *Server) Routes() []httpapi.Route {
	type row = httpapi.Route
	user, server := httpapi.AuthUser, httpapi.AuthServer
	routes := []row{
		{Method: http.MethodGet, Path: "/_matrix/client/v1/media/download/{serverName}/{mediaId}", Auth: user, Limit: httpapi.LimitMedia, Guest: true, Handler: s.GetContentAuthed},
		{Method: http.MethodGet, Path: "/_matrix/client/v1/media/download/{serverName}/{mediaId}/{fileName}", Auth: user, Limit: httpapi.LimitMedia, Guest: true, Handler: s.GetContentAuthed},
		{Method: http.MethodGet, Path: "/_matrix/client/v1/media/thumbnail/{serverName}/{mediaId}", Auth: user, Limit: httpapi.LimitMedia, Guest: true, Handler: s.GetContentThumbnailAuthed},
		{Method: http.MethodGet, Path: "/_matrix/client/v1/media/config", Auth: user, Limit: httpapi.LimitDefault, Guest: true, Handler: s.GetConfig},
		{Method: http.MethodGet, Path: "/_matrix/media/v3/config", Auth: user, Limit: httpapi.LimitDefault, Guest: true, Handler: s.GetConfig},
		{Method: http.MethodPost, Path: "/_matrix/media/v3/upload", Auth: user, Limit: httpapi.LimitMedia, MaxBody: -1, Handler: s.UploadContent},
		{Method: http.MethodPost, Path: "/_matrix/media/v1/create", Auth: user, Limit: httpapi.LimitMedia, Handler: s.CreateContent},
		{Method: http.MethodPut, Path: "/_matrix/media/v3/upload/{serverName}/{mediaId}", Auth: user, Limit: httpapi.LimitMedia, MaxBody: -1, Handler: s.UploadContentToMXC},
		{Method: http.MethodGet, Path: "/_matrix/federation/v1/media/download/{mediaId}", Auth: server, Handler: s.ServeContent},
		{Method: http.MethodGet, Path: "/_matrix/federation/v1/media/thumbnail/{mediaId}", Auth: server, Handler: s.ServeThumbnail},
	}
	if s.LegacyDownloads {
		none := httpapi.AuthNone
		routes = append(routes,
			row{Method: http.MethodGet, Path: "/_matrix/media/v3/download/{serverName}/{mediaId}", Auth: none, Limit: httpapi.LimitMedia, Handler: s.GetContent},
			row{Method: http.MethodGet, Path: "/_matrix/media/v3/download/{serverName}/{mediaId}/{fileName}", Auth: none, Limit: httpapi.LimitMedia, Handler: s.GetContent},
			row{Method: http.MethodGet, Path: "/_matrix/media/v3/thumbnail/{serverName}/{mediaId}", Auth: none, Limit: httpapi.LimitMedia, Handler: s.GetContentThumbnail},
		)
	}
	return routes
}

var errNoMedia = fmt.Errorf("mediaapi: %w", merr.NotFound("there is no such media"))
