package remote

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"weft/matrix/id"
	"weft/matrix/merr"
)

// maxBody bounds the body of a request: a transaction of 50 PDUs and 100 EDUs of
// the largest size.
const maxBody = 16 << 20

// endpoint is a row of the table of what is served.
type endpoint struct {
	// pattern is the method and path, as http.ServeMux reads them.
	pattern string
	// open endpoints are asked without a signature.
	open  bool
	serve func(*request) (any, error)
}

// request is an inbound request whose signature was verified.
type request struct {
	*http.Request
	// at is the name that was asked, origin the server that asks; it is empty
	// for open endpoints.
	at     *identity
	origin id.Server
	body   []byte
}

// errCutShort marks an answer whose beginning has been sent.
var errCutShort = errors.New("the answer was cut short")

// streamed is a response that is written piece by piece.
type streamed func(w io.Writer) error

const (
	fedV1 = "/_matrix/federation/v1/"
	fedV2 = "/_matrix/federation/v2/"
)

// endpoints is what a server answers. Whatever is not here is unrecognised.
func (s *Server) endpoints() []endpoint {
	return []endpoint{
		{"GET /_matrix/key/v2/server", true, s.getKeys},
		{"GET /_matrix/key/v2/server/{keyId}", true, s.getKeys},
		{"GET /_matrix/key/v2/query/{serverName}", true, s.queryKeysOf},
		{"POST /_matrix/key/v2/query", true, s.queryKeys},
		{"GET " + fedV1 + "version", true, s.getVersion},

		{"GET " + fedV1 + "make_join/{roomId}/{userId}", false, s.makeJoin},
		{"PUT " + fedV1 + "send_join/{roomId}/{eventId}", false, s.sendJoinV1},
		{"PUT " + fedV2 + "send_join/{roomId}/{eventId}", false, s.sendJoinV2},
		{"GET " + fedV1 + "make_leave/{roomId}/{userId}", false, s.makeLeave},
		{"PUT " + fedV1 + "send_leave/{roomId}/{eventId}", false, s.sendLeaveV1},
		{"PUT " + fedV2 + "send_leave/{roomId}/{eventId}", false, s.sendLeaveV2},

		{"GET " + fedV1 + "event/{eventId}", false, s.getEvent},
		{"GET " + fedV1 + "event_auth/{roomId}/{eventId}", false, s.getEventAuth},
		{"GET " + fedV1 + "state/{roomId}", false, s.getState},
		{"GET " + fedV1 + "state_ids/{roomId}", false, s.getStateIDs},
		{"GET " + fedV1 + "backfill/{roomId}", false, s.backfill},
		{"POST " + fedV1 + "get_missing_events/{roomId}", false, s.getMissingEvents},

		{"PUT " + fedV1 + "send/{txnId}", false, s.receiveTransaction},
		{"GET " + fedV1 + "query/profile", false, s.queryProfile},
		{"GET " + fedV1 + "user/devices/{userId}", false, s.userDevices},
		{"POST " + fedV1 + "user/keys/query", false, s.userKeys},
		{"POST " + fedV1 + "user/keys/claim", false, s.claimKeys},
	}
}

// handler serves one of the names.
func (s *Server) handler(i *identity) http.Handler {
	mux := http.NewServeMux()
	for _, e := range s.endpoints() {
		mux.Handle(e.pattern, s.serveEndpoint(i, e))
	}
	// spec: server-server §1.2 (Unsupported endpoints)
	mux.Handle("/", s.serveEndpoint(i, endpoint{"unrecognised", true, func(r *request) (any, error) {
		return nil, merr.Unrecognized("this server does not serve %s %s", r.Method, r.URL.Path)
	}}))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case s.slots <- struct{}{}:
			defer func() { <-s.slots }()
			mux.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	})
}

// serveEndpoint reads and verifies a request, answers it and counts it.
func (s *Server) serveEndpoint(i *identity, e endpoint) http.Handler {
	name := endpointName(e.pattern)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out := &countingWriter{w: w}
		res, err := s.answer(i, e, w, r)
		w.Header().Set("Content-Type", "application/json")
		if err == nil {
			err = writeResponse(out, res)
		} else {
			writeError(w, out, err)
		}
		s.traffic.count(name, r, out.n, err)
		if err != nil {
			s.opts.Log.WithError(err).WithField("at", i.name).Debugf("%s %s", r.Method, r.URL.Path)
		}
		if errors.Is(err, errCutShort) {
			// The header is out; only a broken connection can tell.
			panic(http.ErrAbortHandler)
		}
	})
}

func (s *Server) answer(i *identity, e endpoint, w http.ResponseWriter, r *http.Request) (any, error) {
	req := &request{Request: r, at: i}
	var err error
	if req.body, err = io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody)); err != nil {
		return nil, fmt.Errorf("%w: %w", merr.TooLarge("the body could not be read"), err)
	}
	if !e.open {
		if req.origin, err = s.ring.VerifyRequest(r, req.body, i.name); err != nil {
			return nil, err
		}
	}
	return e.serve(req)
}

// writeResponse writes a successful answer. An error means that it was cut short.
func writeResponse(w io.Writer, res any) error {
	switch v := res.(type) {
	case streamed:
		if err := v(w); err != nil {
			return fmt.Errorf("%w: %w", errCutShort, err)
		}
		return nil
	case json.RawMessage:
		_, err := w.Write(v)
		return err
	case nil:
		_, err := w.Write([]byte("{}"))
		return err
	default:
		body, err := json.Marshal(v)
		if err != nil {
			return err
		}
		_, err = w.Write(body)
		return err
	}
}

func writeError(h http.ResponseWriter, w io.Writer, err error) {
	e := merr.From(err)
	body, merrErr := json.Marshal(e)
	if merrErr != nil {
		body = []byte(`{"errcode":"M_UNKNOWN","error":"the error could not be written"}`)
	}
	h.WriteHeader(e.Status)
	// Whoever does not take it has gone away.
	_, _ = w.Write(body)
}

func (r *request) room(s *Server) (*Room, error) {
	roomID, err := id.ParseRoom(r.PathValue("roomId"))
	if err != nil {
		return nil, err
	}
	room := s.room(roomID)
	if room == nil {
		return nil, merr.NotFound("the room %s is not known here", roomID)
	}
	return room, nil
}

func (r *request) decode(v any) error {
	if err := json.Unmarshal(r.body, v); err != nil {
		return merr.BadJSON("the body is malformed: %v", err)
	}
	return nil
}
