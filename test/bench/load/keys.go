package load

import (
	"context"
	"net/http"
	"net/url"
)

// UploadKeys uploads device keys, one-time keys or both, and returns how many one-time keys the server now has of the algorithm.
func (u *User) UploadKeys(ctx context.Context, body []byte, algorithm string) (int64, error) {
	a, err := u.Call(ctx, http.MethodPost, v3+"/keys/upload", body)
	if err != nil {
		return 0, err
	}
	defer a.Release()
	return a.Get("one_time_key_counts." + algorithm).Int(), nil
}

// SendToDevices sends messages to devices; body has the messages.
func (u *User) SendToDevices(ctx context.Context, kind string, body []byte) error {
	a, err := u.Call(ctx, http.MethodPut, v3+"/sendToDevice/"+escape(kind)+"/"+u.transaction(), body)
	if err != nil {
		return err
	}
	a.Release()
	return nil
}

// Upload stores a file and returns its mxc URI.
func (u *User) Upload(ctx context.Context, name, kind string, data []byte) (string, error) {
	a, err := u.Do(ctx, Request{Method: http.MethodPost, Path: "/_matrix/media/v3/upload?filename=" + url.QueryEscape(name),
		Token: u.Token, Type: kind, Body: data})
	if err != nil {
		return "", err
	}
	defer a.Release()
	return a.Get("content_uri").String(), nil
}

// Download fetches a file by its mxc URI. The caller releases the answer.
func (u *User) Download(ctx context.Context, mxc string) (*Answer, error) {
	at, err := url.Parse(mxc)
	if err != nil {
		return nil, err
	}
	return u.Call(ctx, http.MethodGet, "/_matrix/client/v1/media/download/"+escape(at.Host)+at.EscapedPath(), nil)
}
